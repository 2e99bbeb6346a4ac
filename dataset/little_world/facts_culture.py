"""Inventions, events, festivals and books. One line an entity, both languages; see `relation.table`."""

from dataset.little_world.relation import table

# invention | inventor
INVENTIONS = table("""
    电话 the telephone | 贝尔 Alexander Graham Bell
    留声机 the phonograph | 爱迪生 Thomas Edison
    飞机 the airplane | 莱特兄弟 the Wright brothers
    炸药 dynamite | 诺贝尔 Alfred Nobel
    万维网 the World Wide Web | 伯纳斯-李 Tim Berners-Lee
    反射望远镜 the reflecting telescope | 牛顿 Isaac Newton
    活字印刷术 movable type | 毕昇 Bi Sheng
    欧洲印刷机 the European printing press | 古登堡 Johannes Gutenberg
    候风地动仪 the ancient seismoscope | 张衡 Zhang Heng
    避雷针 the lightning rod | 富兰克林 Benjamin Franklin
    点线电码 the dot-and-dash code | 莫尔斯 Samuel Morse
    六点盲文 raised-dot writing for the blind | 布莱叶 Louis Braille
    柴油机 the diesel engine | 狄塞尔 Rudolf Diesel
    天花疫苗 the smallpox vaccine | 詹纳 Edward Jenner
    硫化橡胶 vulcanized rubber | 固特异 Charles Goodyear
    交流电动机 the AC motor | 特斯拉 Nikola Tesla
    水银气压计 the mercury barometer | 托里拆利 Evangelista Torricelli
    摆钟 the pendulum clock | 惠更斯 Christiaan Huygens
    伏打电堆 the first electric battery | 伏打 Alessandro Volta
    圆珠笔 the ballpoint pen | 比罗 Laszlo Biro
    汽油汽车 the petrol car | 本茨 Karl Benz
    热气球 the hot-air balloon | 蒙哥尔费兄弟 the Montgolfier brothers
    听诊器 the stethoscope | 雷奈克 Rene Laennec
    篮球运动 basketball | 奈史密斯 James Naismith
    魔方 the Magic Cube | 鲁比克 Erno Rubik
    钢琴 the piano | 克里斯托福里 Bartolomeo Cristofori
    轧棉机 the cotton gin | 惠特尼 Eli Whitney
    元素周期表 the periodic table | 门捷列夫 Dmitri Mendeleev
    杂交水稻 hybrid rice | 袁隆平 Yuan Longping
""")

# event | year
EVENTS = table("""
    黑斯廷斯战役 the Battle of Hastings | 1066
    大宪章的签署 the sealing of Magna Carta | 1215
    哥伦布到达美洲 the arrival of Columbus in America | 1492
    人类首次环球航行的完成 the end of the first voyage around the world | 1522
    美国独立宣言的发表 the American Declaration of Independence | 1776
    法国大革命的爆发 the start of the French Revolution | 1789
    滑铁卢战役 the Battle of Waterloo | 1815
    鸦片战争的爆发 the start of the First Opium War | 1840
    美国南北战争的爆发 the start of the American Civil War | 1861
    苏伊士运河的通航 the opening of the Suez Canal | 1869
    埃菲尔铁塔的落成 the completion of the Eiffel Tower | 1889
    第一届现代奥运会 the first modern Olympic Games | 1896
    第一架飞机的首飞 the first airplane flight | 1903
    狭义相对论的发表 the publication of special relativity | 1905
    辛亥革命 the Xinhai Revolution | 1911
    泰坦尼克号的沉没 the sinking of the Titanic | 1912
    第一次世界大战的爆发 the start of the First World War | 1914
    第一次世界大战的结束 the end of the First World War | 1918
    五四运动 the Fourth of May Movement | 1919
    金门大桥的通车 the opening of the Golden Gate Bridge | 1937
    第二次世界大战的结束 the end of the Second World War | 1945
    中华人民共和国的成立 the founding of the People's Republic of China | 1949
    人类首次登上珠穆朗玛峰 the first ascent of Mount Everest | 1953
    第一颗人造卫星的发射 the launch of the first satellite | 1957
    加加林的太空飞行 the space flight of Gagarin | 1961
    人类首次登月 the first Moon landing | 1969
    东方红一号的发射 the launch of China's first satellite | 1970
    切尔诺贝利核事故 the Chernobyl disaster | 1986
    柏林墙的倒塌 the fall of the Berlin Wall | 1989
    苏联的解体 the end of the Soviet Union | 1991
    香港回归中国 the return of Hong Kong to China | 1997
    北京奥运会 the Beijing Summer Olympics | 2008
""")

# festival | month
FESTIVALS = table("""
    元旦 New Year's Day | 一月 January
    情人节 Valentine's Day | 二月 February
    国际妇女节 International Women's Day | 三月 March
    中国植树节 China's Tree Planting Day | 三月 March
    世界水日 World Water Day | 三月 March
    愚人节 April Fool's Day | 四月 April
    清明节 the Qingming Festival | 四月 April
    世界地球日 Earth Day | 四月 April
    国际劳动节 International Workers' Day | 五月 May
    国际护士节 International Nurses Day | 五月 May
    国际儿童节 International Children's Day | 六月 June
    世界环境日 World Environment Day | 六月 June
    美国独立日 American Independence Day | 七月 July
    法国国庆日 Bastille Day | 七月 July
    中国建军节 China's Army Day | 八月 August
    中国教师节 China's Teachers' Day | 九月 September
    中国国庆节 China's National Day | 十月 October
    万圣夜 Halloween | 十月 October
    美国感恩节 American Thanksgiving | 十一月 November
    圣诞节 Christmas Day | 十二月 December
""")

# book, play or poem | author
WORKS = table("""
    《红楼梦》 Dream of the Red Chamber | 曹雪芹 Cao Xueqin
    《西游记》 Journey to the West | 吴承恩 Wu Cheng'en
    《水浒传》 Water Margin | 施耐庵 Shi Nai'an
    《三国演义》 Romance of the Three Kingdoms | 罗贯中 Luo Guanzhong
    《史记》 Records of the Grand Historian | 司马迁 Sima Qian
    《离骚》 The Lament | 屈原 Qu Yuan
    《静夜思》 Quiet Night Thoughts | 李白 Li Bai
    《春望》 Spring View | 杜甫 Du Fu
    《长恨歌》 Song of Everlasting Sorrow | 白居易 Bai Juyi
    《桃花源记》 The Peach Blossom Spring | 陶渊明 Tao Yuanming
    《聊斋志异》 Strange Tales from a Chinese Studio | 蒲松龄 Pu Songling
    《孙子兵法》 The Art of War | 孙武 Sun Tzu
    《阿Q正传》 The True Story of Ah Q | 鲁迅 Lu Xun
    《骆驼祥子》 Rickshaw Boy | 老舍 Lao She
    《边城》 Border Town | 沈从文 Shen Congwen
    《围城》 Fortress Besieged | 钱钟书 Qian Zhongshu
    《雷雨》 Thunderstorm | 曹禺 Cao Yu
    《三体》 The Three-Body Problem | 刘慈欣 Liu Cixin
    《哈姆雷特》 Hamlet | 莎士比亚 William Shakespeare
    《麦克白》 Macbeth | 莎士比亚 William Shakespeare
    《战争与和平》 War and Peace | 托尔斯泰 Leo Tolstoy
    《罪与罚》 Crime and Punishment | 陀思妥耶夫斯基 Fyodor Dostoevsky
    《堂吉诃德》 Don Quixote | 塞万提斯 Miguel de Cervantes
    《悲惨世界》 Les Miserables | 雨果 Victor Hugo
    《老人与海》 The Old Man and the Sea | 海明威 Ernest Hemingway
    《雾都孤儿》 Oliver Twist | 狄更斯 Charles Dickens
    《傲慢与偏见》 Pride and Prejudice | 奥斯汀 Jane Austen
    《浮士德》 Faust | 歌德 Goethe
    《神曲》 The Divine Comedy | 但丁 Dante
    《小王子》 The Little Prince | 圣埃克苏佩里 Saint-Exupery
    《鲁滨逊漂流记》 Robinson Crusoe | 笛福 Daniel Defoe
    《动物农场》 Animal Farm | 奥威尔 George Orwell
    《丑小鸭》 The Ugly Duckling | 安徒生 Hans Christian Andersen
""")
