import { createApp } from 'vue'
import 'element-plus/theme-chalk/base.css'
import 'element-plus/theme-chalk/dark/css-vars.css'
import './styles/tokens.css'
import './styles/base.css'
import App from './App.vue'
import { useCluster } from './cluster'
import { createPageRouter } from './router'
import { startTheme } from './theme'

startTheme()
useCluster().start()
createApp(App).use(createPageRouter()).mount('#app')
